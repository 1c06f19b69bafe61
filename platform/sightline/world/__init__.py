"""The embedded default: icon scenes, their language, and the reference VLM's files.

A fruit fly for hallucination work. Scenes are icons of COCO nouns on a plain ground,
so truth is perfect and free; contexts give the nouns COCO-like co-occurrence, so a
model trained here learns language priors and really does hallucinate. Nothing in
this package knows torch, transformers or Ray.
"""

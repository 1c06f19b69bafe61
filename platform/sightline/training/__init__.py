"""Losses, the shared-prefix forward, collation and LoRA; plain torch, no Ray."""

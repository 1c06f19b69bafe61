"""Scores as pure numpy: what an answer is worth, and how sure we are of it.

Every score is a ratio of two sums over items (`bootstrap.Ratio`): accuracy is right
answers over answers, CHAIR_i is invented mentions over mentions, F1 is 2 TP over
2 TP + FP + FN. So one seeded bootstrap, clustered by image, gives every value its
interval, alone or as a paired difference. Knows no model, no file and no torch.
"""

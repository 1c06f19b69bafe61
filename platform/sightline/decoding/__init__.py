"""Ways to choose tokens other than the likeliest: contrasts, layers, beams, sampling."""

"""What a model weighs, and what a step of it should take."""

"""Jobs done, failed and left, and the time left: model, estimate, words, display."""

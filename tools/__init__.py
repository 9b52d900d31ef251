"""Programs for those who work on the project; nothing in a sweep runs them."""

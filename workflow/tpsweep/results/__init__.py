"""A results folder as data frames."""

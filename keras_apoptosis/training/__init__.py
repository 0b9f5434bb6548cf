"""Hooks, penalties, noise and triggers in and around the training step."""

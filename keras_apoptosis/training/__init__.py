"""What runs in and around the compiled training step."""

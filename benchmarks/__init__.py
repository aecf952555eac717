"""What reproduces every number that the README claims. Not installed: run from the repository's root."""

"""What the project claims: a script and a JSON file a row, and studies of accuracy."""

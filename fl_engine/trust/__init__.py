"""Trust rules: integer scores from events every member can verify. One rule a file."""

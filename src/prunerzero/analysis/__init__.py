"""What a study teaches."""

"""What is counted for people to look at, and decides nothing."""

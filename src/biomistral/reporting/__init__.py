"""What people see: the leaderboard page and the lineage of every row."""

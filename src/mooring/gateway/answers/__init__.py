"""What becomes of an answer: which way it takes, what is made good, counted and checked, and how it ends."""

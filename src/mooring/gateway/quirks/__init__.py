"""What single engines do differently, and the several-step calls that make it good."""

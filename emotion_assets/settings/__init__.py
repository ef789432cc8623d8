"""What a profile may say, checked once at load, and the errors that a user can mend."""

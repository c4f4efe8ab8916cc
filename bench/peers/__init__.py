"""Others that fold, to compare with."""

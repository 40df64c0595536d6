"""What all tests share stands in tests/support/."""

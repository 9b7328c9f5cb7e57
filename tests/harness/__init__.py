"""What the end-to-end suites share: the built binary, real clients, and disks to compare with."""

"""What people look at: colours, and pictures read and written."""

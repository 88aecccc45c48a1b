"""What runs leave on the disk: their folders, queues of them, and tables of what they reached."""

"""Side by side with the kernel's own stack, and the demo."""

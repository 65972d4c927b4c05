"""What runs came to: pages, figures and sentences."""

"""What is varied: the methods of attention and depth, and the studies that compare them."""

"""What stands behind the ports. An adapter knows the ports and its library, and no other adapter."""

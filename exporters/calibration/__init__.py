"""What the activations of a bundle's graphs hold while it draws pictures, and the scales that follow from it."""

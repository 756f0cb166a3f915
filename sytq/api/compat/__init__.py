"""The endpoints of the replaced systems, as their callers use them."""

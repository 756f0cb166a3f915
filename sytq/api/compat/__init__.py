"""The endpoints of the systems before this one, as their callers use them."""

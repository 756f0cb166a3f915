"""What can be done with tasks across SQL and Redis: submit, control, record and show them."""

"""`sytq dev`: a practice provider, a sample and a supervisor around the real service. Production uses none of it."""

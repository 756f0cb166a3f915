"""What `sytq dev` adds to the real service: a practice provider, a sample, a supervisor. Production uses none of it."""

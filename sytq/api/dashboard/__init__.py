"""The dashboard: HTML pages at /dashboard for people, of what the API does for programs."""

"""What `sytq dev` adds around the real service: a practice provider, a sample, a supervisor.

Owns nothing that production uses; nothing outside this folder and the command line may import it.
"""

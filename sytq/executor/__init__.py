"""The executor: fetches tasks, runs their functions and acknowledges the outcomes, in one worker process."""

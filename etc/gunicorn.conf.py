# How gunicorn serves the API; every value comes from the settings (SYTQ_CONFIG, SYTQ_API__*):
#     gunicorn -c etc/gunicorn.conf.py 'sytq.api:create_app()'
# Installed without this file the same is `-c python:sytq.api.gunicorn_conf`. Names assigned below win.
from sytq.api.gunicorn_conf import *  # noqa: F403

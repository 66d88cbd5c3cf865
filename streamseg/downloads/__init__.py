"""Files from elsewhere: fetched once, verified, kept in a cache.

``streamseg.downloads.fetching.fetch`` is the door; it takes URLs, files of the Hugging Face Hub and
local paths.

No library does all of this. pooch fetches and verifies, but has no resume and no asyncio. pyhaul
has resume, for Python 3.12 and later. huggingface_hub does everything for the files of its Hub, so
they go through it, with its cache, token, mirror endpoint and offline switch (``hub.py``); it has
no door for other servers, and gives a partial file up when it is stopped, which ``hub_resume.py``
mends. For plain HTTP there is
``http.py``: aiohttp, which is a dependency already, Range with If-Range, and the checks. filelock
keeps two processes apart, platformdirs knows where caches belong.
"""

"""Watching of inboxes: frames are ingested and scored as they arrive, and commands are run on them."""

"""WebRTC: connections as sources and sinks, and the servers and clients of its standards.

aiortc is imported here and nowhere else.
"""

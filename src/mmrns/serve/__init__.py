"""A service that answers questions to finished runs over HTTP, and the explorer it shows in a browser."""

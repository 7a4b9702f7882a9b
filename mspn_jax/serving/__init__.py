"""People in pictures over HTTP. Needs the extra `serve`."""

"""`kling-receiver mcp`: an MCP server over stdio, through which an agent uses the running service."""

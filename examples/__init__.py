"""Agents to start from, one for each way there is to bring one: `AGENT=examples.ten_lines:agent`."""

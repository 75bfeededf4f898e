"""The agents of the trial: what is installed for each, and how it finds the provider."""

import json
import os
import subprocess
import sys
import tomllib
import venv
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

RECIPES = Path(__file__).parents[1]
KEY = "none"
MODEL = "scripted"
NODE = "node@22"


@dataclass(frozen=True)
class Agent:
    """An agent of contrib/agents.

    Attributes:
        name: The name of its recipe.
        package: Its package on npm; empty for the one from PyPI.
        env: Its variables for a provider at a URL.

    Those from npm run with a Node that is installed beside them: the newest versions need that.
    """

    name: str
    package: str
    env: Callable[[str], dict[str, str]]

    def profile(self, folder: Path, url: str) -> dict[str, Any]:
        """Return the profile of its recipe, with the program in a folder and the provider at a URL."""
        recipe = tomllib.loads((RECIPES / f"{self.name}.toml").read_text())
        (profile,) = recipe["profiles"].values()
        program, *arguments = profile["command"]
        profile["command"] = [str(folder / "node_modules" / ".bin" / program), *arguments]
        if not self.package:
            profile["command"] = [str(folder / "venv" / "bin" / "python"), str(RECIPES / "pydantic_ai_agent.py")]
        profile["env"] = {**profile.get("env", {}), **self.env(url), "PATH": _path(folder)}
        found: dict[str, Any] = profile
        return found

    def version(self, folder: Path) -> str:
        """Return the version that is installed in a folder; empty if it is not."""
        if not self.package:
            return (folder / "installed.txt").read_text().split()[0] if (folder / "installed.txt").exists() else ""
        manifest = folder / "node_modules" / self.package / "package.json"
        return str(json.loads(manifest.read_text())["version"]) if manifest.exists() else ""

    def install(self, folder: Path) -> None:
        """Install it into a folder, unless it is there. Raises CalledProcessError."""
        if self.version(folder):
            return
        folder.mkdir(parents=True, exist_ok=True)
        if self.package:
            for package in (NODE, self.package):
                command = ["npm", "install", "--no-audit", "--no-fund", "--loglevel=error", package]
                subprocess.run(command, cwd=folder, check=True, env={**os.environ, "PATH": _path(folder)})
            return
        venv.create(folder / "venv", with_pip=True)
        pip = [str(folder / "venv" / "bin" / "python"), "-m", "pip", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, "install", "-r", str(RECIPES / "requirements.txt")], check=True)
        ask = "from importlib.metadata import version; print(version('pydantic-ai-harness'))"
        asked = subprocess.run([pip[0], "-c", ask], check=True, capture_output=True, text=True)
        (folder / "installed.txt").write_text(asked.stdout)


def _path(folder: Path) -> str:
    return f"{folder / 'node_modules' / '.bin'}:{os.environ['PATH']}"


def _openai(url: str) -> dict[str, str]:
    return {"OPENAI_BASE_URL": f"{url}/v1", "OPENAI_API_KEY": KEY, "OPENAI_MODEL": MODEL, "AGENT_MODEL": MODEL}


def _claude(url: str) -> dict[str, str]:
    return {"ANTHROPIC_BASE_URL": url, "ANTHROPIC_API_KEY": KEY, "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1"}


def _codex(url: str) -> dict[str, str]:
    provider = {"name": "trial", "base_url": f"{url}/v1", "wire_api": "responses", "env_key": "OPENAI_API_KEY"}
    config = {"model": MODEL, "model_provider": "trial", "model_providers": {"trial": provider}}
    return {"OPENAI_API_KEY": KEY, "CODEX_API_KEY": KEY, "CODEX_CONFIG": json.dumps(config)}


def _gemini(url: str) -> dict[str, str]:
    return {"GEMINI_API_KEY": KEY, "GOOGLE_GEMINI_BASE_URL": url, "GEMINI_MODEL": "gemini-2.5-flash"}


def _opencode(url: str) -> dict[str, str]:
    provider = {
        "npm": "@ai-sdk/openai-compatible",
        "options": {"baseURL": f"{url}/v1", "apiKey": KEY},
        "models": {MODEL: {"name": MODEL, "tool_call": True}},
    }
    config: Mapping[str, Any] = {
        "permission": {"edit": "ask", "bash": "ask", "webfetch": "ask"},
        "share": "disabled",
        "autoupdate": False,
        "model": f"trial/{MODEL}",
        "small_model": f"trial/{MODEL}",
        "provider": {"trial": provider},
    }
    return {"OPENCODE_CONFIG_CONTENT": json.dumps(config)}


AGENTS = (
    Agent("claude", "@agentclientprotocol/claude-agent-acp", _claude),
    Agent("codex", "@agentclientprotocol/codex-acp", _codex),
    Agent("gemini", "@google/gemini-cli", _gemini),
    Agent("opencode", "opencode-ai", _opencode),
    Agent("pydantic", "", _openai),
    Agent("qwen", "@qwen-code/qwen-code", _openai),
)


def installed(agent: Agent, folder: Path) -> bool:
    """Install an agent, and return whether that worked."""
    try:
        agent.install(folder)
    except (OSError, subprocess.CalledProcessError) as error:
        sys.stderr.write(f"{agent.name}: cannot be installed: {error}\n")
        return False
    return True

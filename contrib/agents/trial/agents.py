"""The agents of the trial: what is installed for each, and its recipe with a provider of ours."""

import json
import os
import subprocess
import sys
import tomllib
import venv
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

RECIPES = Path(__file__).parents[1]
PROFILE = "builtin:trial"
MODEL = "scripted"
NODE = "node@22"


@dataclass(frozen=True)
class Agent:
    """An agent of contrib/agents.

    Attributes:
        name: The name of its recipe.
        package: Its package on npm; empty for the one from PyPI.
        env: Variables that it gets besides those of its recipe.
        keys: Keys that are added to variables of its recipe in JSON.

    Those from npm run with a Node that is installed beside them: the newest versions need that.
    """

    name: str
    package: str
    env: Mapping[str, str] = field(default_factory=dict)
    keys: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def configuration(self, folder: Path, url: str, key: Path) -> dict[str, Any]:
        """Return its recipe, with the program in a folder, the provider at a URL, and the key in a file."""
        recipe = tomllib.loads((RECIPES / f"{self.name}.toml").read_text())
        (profile,) = recipe["profiles"].values()
        program, *arguments = profile["command"]
        profile["command"] = [str(folder / "node_modules" / ".bin" / program), *arguments]
        if not self.package:
            profile["command"] = [str(folder / "venv" / "bin" / "python"), str(RECIPES / "pydantic_ai_agent.py")]
        changed = {name: json.dumps({**json.loads(profile["env"][name]), **keys}) for name, keys in self.keys.items()}
        profile["env"] |= {**self.env, **changed, "PATH": _path(folder)}
        for gateway in recipe["gateways"].values():
            gateway["upstream"] = f"{url}{urlsplit(gateway['upstream']).path}"
        secrets = {name: {"file": str(key)} for name in recipe["secrets"]}
        return {**recipe, "profiles": {PROFILE: profile}, "secrets": secrets}

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


AGENTS = (
    Agent("claude", "@agentclientprotocol/claude-agent-acp"),
    Agent("codex", "@agentclientprotocol/codex-acp", keys={"CODEX_CONFIG": {"model": MODEL}}),
    Agent("gemini", "@google/gemini-cli", {"GEMINI_MODEL": "gemini-2.5-flash"}),  # it asks no model which one to use
    Agent("opencode", "opencode-ai"),
    Agent("pydantic", ""),
    Agent("qwen", "@qwen-code/qwen-code"),
)


def installed(agent: Agent, folder: Path) -> bool:
    """Install an agent, and return whether that worked."""
    try:
        agent.install(folder)
    except (OSError, subprocess.CalledProcessError) as error:
        sys.stderr.write(f"{agent.name}: cannot be installed: {error}\n")
        return False
    return True

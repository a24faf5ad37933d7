// One shop for the whole suite: `weft demo` in a directory of its own, with the address of its dashboard.
import { execFileSync, spawn, type ChildProcess } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";

const WEFT = resolve(process.env["WEFT"] ?? "../../target/debug/weft");

/** A user who may look at the whole mesh, and nothing else. */
const VIEWER = `apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: vera-looks}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: weft-observer}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: User, name: vera}]
`;

/** The dashboard as `weft dashboard` serves it to that user, and its address. */
async function viewer(folder: string): Promise<[ChildProcess, string]> {
  const admin = ["--kubeconfig", join(folder, "demo/control-plane/kubeconfig")];
  const [own, role] = [join(folder, "vera.kubeconfig"), join(folder, "vera.yaml")];
  writeFileSync(role, VIEWER);
  execFileSync(WEFT, [...admin, "user", "add", "vera", "-o", own]);
  execFileSync(WEFT, [...admin, "apply", "-f", role]);
  const relay = spawn(WEFT, ["--kubeconfig", own, "dashboard", "--no-open"], { stdio: ["ignore", "pipe", "ignore"] });
  const address = await new Promise<string>((found, fail) => {
    let told = "";
    relay.once("error", fail);
    relay.once("exit", (code) => fail(new Error(`weft dashboard ended with ${code ?? "a signal"}`)));
    relay.stdout.on("data", (text: Buffer) => {
      told += text.toString();
      if (told.includes("#key=") && told.endsWith("\n")) found(told.trim());
    });
  });
  return [relay, address];
}

export default async function start(): Promise<() => Promise<void>> {
  // A mesh that runs already, where one is named: quicker while pages are written.
  if (process.env["WEFT_DASHBOARD"]) return () => Promise.resolve();
  const folder = mkdtempSync(join(tmpdir(), "weft-dashboard-test-"));
  // An hour at most: a suite that is killed leaves nothing for ever.
  const demo = spawn(WEFT, ["demo", "--dir", join(folder, "demo"), "--duration", "1h", "--output", "json"], { stdio: ["ignore", "ignore", "pipe"] });
  const ended = new Promise<void>((resolve) => demo.once("exit", () => resolve()));
  let told = "";
  const address = await new Promise<string>((found, fail) => {
    const late = setTimeout(() => fail(new Error(`the demo told no address within 60 s:\n${told}`)), 60_000);
    demo.once("error", (error) => fail(new Error(`${WEFT}: ${error.message}; build it first: cargo build --workspace --bins`)));
    demo.once("exit", (code) => fail(new Error(`the demo ended with ${code ?? "a signal"}:\n${told}`)));
    demo.stderr.on("data", (text: Buffer) => {
      told += text.toString();
      const line = /the dashboard is at (http:\S+#key=\S+)\s/.exec(told);
      if (!line?.[1]) return;
      clearTimeout(late);
      found(line[1]);
    });
  });
  demo.stderr.resume();
  process.env["WEFT_DASHBOARD"] = address;
  const [relay, viewed] = await viewer(folder);
  process.env["WEFT_VIEWER"] = viewed;
  return async () => {
    relay.kill("SIGTERM");
    demo.kill("SIGINT");
    const late = setTimeout(() => demo.kill("SIGKILL"), 15_000);
    await ended;
    clearTimeout(late);
    rmSync(folder, { recursive: true, force: true });
  };
}

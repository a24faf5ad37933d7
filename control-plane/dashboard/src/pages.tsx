// Every page: where it is, how it is called, and what shows it. What only some pages need is loaded with them.
import { type ComponentType, h } from "preact";
import { useEffect, useState } from "preact/hooks";
import { said } from "./api/client";
import { Overview } from "./pages/overview";
import { Failed } from "./ui/parts";
import type { IconName } from "./ui/icons";

interface Page {
  path: string;
  name: string;
  icon: IconName;
  key: string;
  view: ComponentType;
  /** Uses the whole width. */
  wide?: boolean;
}

/** A page whose code comes when it is first shown. */
function later(load: () => Promise<ComponentType>): ComponentType {
  let known: ComponentType | null = null;
  return function Later() {
    const [view, set] = useState<{ of: ComponentType } | null>(known ? { of: known } : null);
    const [error, fail] = useState("");
    useEffect(() => {
      if (view) return;
      load().then((of) => {
        known = of;
        set({ of });
      }, (reason: unknown) => fail(said(reason)));
    }, []);
    if (error) return <Failed error={error} status={0} what="this page" />;
    return view ? h(view.of, {}) : <p class="dim" role="status">Loading …</p>;
  };
}

export const PAGES: Page[] = [
  { path: "/", name: "Overview", icon: "overview", key: "o", view: Overview },
  { path: "/topology", name: "Topology", icon: "topology", key: "t", view: later(async () => (await import("./pages/topology")).Topology), wide: true },
  { path: "/services", name: "Services", icon: "services", key: "s", view: later(async () => (await import("./pages/services")).Services) },
  { path: "/traffic", name: "Traffic", icon: "traffic", key: "f", view: later(async () => (await import("./pages/traffic")).Traffic) },
  { path: "/policies", name: "Policies", icon: "policies", key: "p", view: later(async () => (await import("./pages/policies")).Policies) },
  { path: "/identity", name: "Identity", icon: "identity", key: "i", view: later(async () => (await import("./pages/identity")).Identity) },
  { path: "/control-plane", name: "Control plane", icon: "control", key: "c", view: later(async () => (await import("./pages/controlplane")).ControlPlane) },
];

/** The page of a path; none: there is no such page. */
export function pageOf(path: string): Page | undefined {
  return PAGES.find((page) => page.path === path) ?? PAGES.find((page) => page.path !== "/" && path.startsWith(`${page.path}/`));
}

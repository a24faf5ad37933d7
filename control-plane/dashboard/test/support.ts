// What all tests of pages need: the way in, and a watch on what must never happen.
import { expect, test as base, type Page } from "@playwright/test";

/** Where the shop's dashboard is. */
export const address = new URL(process.env["WEFT_DASHBOARD"] ?? "http://127.0.0.1:1/dashboard/");
export const key = address.hash.slice("#key=".length);

/** The same, for a user who may only look; a mesh that was named by hand has none. */
export const viewer = process.env["WEFT_VIEWER"] ? new URL(process.env["WEFT_VIEWER"]) : null;

export const SIZES = { wide: { width: 1440, height: 900 }, phone: { width: 390, height: 844 } };

/** Every page, and what shows that it is there. */
export const PAGES: { name: string; path: string; sees: string | RegExp }[] = [
  { name: "overview", path: "/", sees: "shop/payments" },
  { name: "topology", path: "/topology", sees: "storefront" },
  { name: "edges", path: "/topology?view=table", sees: "shop/storefront" },
  { name: "services", path: "/services", sees: "shop/orders" },
  { name: "service", path: "/services/shop/catalog", sees: "shop/catalog-v1-1" },
  { name: "traffic", path: "/traffic", sees: "No tap is open" },
  { name: "policies", path: "/policies", sees: "in force" },
  { name: "object", path: "/policies/trafficpolicies/shop/payments", sees: "Programmed: True" },
  { name: "new", path: "/policies/new?service=shop/payments", sees: "Begin with" },
  { name: "explain", path: "/policies/explain", sees: "The call" },
  { name: "identity", path: "/identity", sees: "shop/catalog-v1-1" },
  { name: "control-plane", path: "/control-plane", sees: "every sidecar is connected" },
];

/** A page of the dashboard, signed in by the key as `weft dashboard` hands it. */
export async function open(page: Page, path: string, from = address): Promise<void> {
  const [plain, search = ""] = path.split("?");
  await page.goto(`${from.origin}/dashboard${plain ?? "/"}${search ? `?${search}` : ""}${from === address ? `#key=${key}` : from.hash}`);
}

/** Replaces what stands in the editor, as by hand. */
export async function write(page: Page, text: string): Promise<void> {
  await page.getByRole("textbox", { name: "YAML" }).click();
  await page.keyboard.press("Control+a");
  await page.keyboard.press("Delete");
  await page.keyboard.insertText(text);
}

/** A dry run that is refused, a plan that is, and an object that is gone. */
const REFUSED = /dryRun=All|\/weft\/v1\/plan|trafficpolicies\/payments-chaos/;

/** Console errors, uncaught errors and requests elsewhere fail the test that made them. */
export const test = base.extend<{ watched: string[] }>({
  watched: [async ({ page }, use) => {
    const wrong: string[] = [];
    page.on("console", (message) => {
      // What the API refuses, as it should, the browser says too: the page shows it.
      const { url } = message.location();
      const refused = message.text().startsWith("Failed to load resource") && (REFUSED.test(url) || (viewer !== null && url.startsWith(viewer.origin) && message.text().includes("403")));
      if (!refused && (message.type() === "error" || message.type() === "warning")) wrong.push(`console: ${message.text()}`);
    });
    page.on("pageerror", (error) => wrong.push(`error: ${error.message}`));
    page.on("request", (request) => {
      if (![address.origin, viewer?.origin].includes(new URL(request.url()).origin)) wrong.push(`request elsewhere: ${request.url()}`);
    });
    await use(wrong);
    expect(wrong).toEqual([]);
  }, { auto: true }],
});

export { expect };

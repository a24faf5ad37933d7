// What people do on the pages: by mouse and by keyboard, from a look to a change and back.
import { gzipSync } from "node:zlib";
import { address, expect, open, test, write } from "./support";

test.use({ viewport: { width: 1440, height: 900 } });

test("figures of the overview go on by themselves, and stand when paused", async ({ page }) => {
  await open(page, "/");
  const row = page.getByRole("row", { name: /shop\/storefront/ });
  await expect(row).toContainText(/\d+\/s/);
  await expect(row).toContainText("1 of 1");
  await page.getByRole("button", { name: /^Updates: Live/ }).click();
  const button = page.getByRole("button", { name: /^Updates: Paused/ });
  await expect(button).toBeVisible();
  await button.click();
  await expect(page.getByRole("button", { name: /^Updates: Live/ })).toBeVisible();
});

test("the keyboard finds services, goes to pages and lists the keys", async ({ page }) => {
  await open(page, "/");
  await expect(page.locator("main").getByText("shop/payments").first()).toBeVisible();
  await page.keyboard.press("Tab");
  await expect(page.getByRole("link", { name: "Skip to the page" })).toBeFocused();
  await page.keyboard.press("/");
  await expect(page.getByRole("combobox", { name: "Search services and pages" })).toBeFocused();
  await page.keyboard.type("paym");
  await expect(page.getByRole("option", { name: /shop\/payments/, selected: true })).toBeVisible();
  await page.keyboard.press("Enter");
  await expect(page.getByRole("heading", { level: 1, name: "shop/payments" })).toBeFocused();
  await page.keyboard.press("g");
  await page.keyboard.press("t");
  await expect(page).toHaveURL(/\/dashboard\/topology$/);
  await page.keyboard.press("?");
  await expect(page.getByRole("dialog", { name: "Keys" })).toBeVisible();
  await page.keyboard.press("Escape");
  await expect(page.getByRole("dialog")).toHaveCount(0);
});

test("the topology leads from a node to its edges and to the service's page", async ({ page }) => {
  await open(page, "/topology");
  await page.getByRole("button", { name: /^shop\/orders: / }).press("Enter");
  const side = page.getByRole("complementary", { name: "What is picked" });
  await expect(side).toContainText("Called by");
  await side.getByRole("button", { name: "shop/payments" }).click();
  await expect(side.getByRole("heading", { level: 2 })).toContainText("shop/orders");
  await expect(side).toContainText("every call");
  await side.getByRole("button", { name: "shop/payments", exact: true }).click();
  await side.getByRole("link", { name: "Open service" }).click();
  await expect(page.getByRole("heading", { level: 1, name: "shop/payments" })).toBeVisible();
  await expect(page.getByRole("img", { name: /^Calls a second: calls \d/ })).toBeVisible();
});

test("light and dark is chosen once and stays", async ({ page }) => {
  await open(page, "/");
  await page.getByRole("button", { name: "Dark colours" }).click();
  await page.reload();
  await expect(page.locator("html")).toHaveAttribute("data-scheme", "dark");
});

test("explain answers with the policy that decides", async ({ page }) => {
  await open(page, "/policies/explain");
  await page.getByLabel(/^From/).fill("shop/load-1");
  await page.getByLabel(/^To/).fill("shop/payments");
  await page.getByRole("button", { name: "Explain", exact: true }).click();
  await expect(page.getByRole("region", { name: "What becomes of it" })).toContainText("denied");
  await expect(page.locator(".equivalent")).toContainText("weft explain --from shop/load-1 --to shop/payments GET /");
});

test("what the server refuses is said at its place, and nothing is written", async ({ page }) => {
  await open(page, "/policies/new?service=shop/users");
  await write(page, "apiVersion: weft.mesh/v1alpha1\nkind: TrafficPolicy\nmetadata: {name: broken, namespace: shop}\nspec:\n  targetRefs: [{kind: Service, name: users}]\n  retry: {attempts: many}\n");
  await page.getByRole("button", { name: "Check", exact: true }).click();
  await expect(page.getByRole("alert").first()).toContainText("attempts");
  await expect(page.getByRole("button", { name: "Apply", exact: true })).toBeDisabled();
  await write(page, "kind: [");
  await expect(page.getByRole("button", { name: "Check", exact: true })).toBeDisabled();
});

test("a fault that the editor applies shows on overview and topology within ten seconds, and goes with its policy", async ({ page }) => {
  await open(page, "/policies/new?service=shop/payments");
  await write(page, "apiVersion: weft.mesh/v1alpha1\nkind: TrafficPolicy\nmetadata:\n  name: payments-chaos\n  namespace: shop\nspec:\n  targetRefs:\n    - kind: Service\n      name: payments\n  faults:\n    - abort:\n        status: 503\n        percent: 60\n");
  await page.getByRole("button", { name: "Check", exact: true }).click();
  await expect(page.getByRole("region", { name: "What changes" })).toContainText("percent: 60");
  await page.getByRole("button", { name: "Apply", exact: true }).click();
  const begun = Date.now();
  try {
    await expect(page.getByText("Applied: TrafficPolicy payments-chaos.")).toBeVisible();
    await page.getByRole("navigation", { name: "Pages" }).getByRole("link", { name: /^Overview/ }).click();
    const problems = page.getByRole("region", { name: "Problems" });
    await expect(problems).toContainText(/calls to shop\/payments/, { timeout: 10_000 });
    await expect(problems).toContainText("suffers: ");
    await page.getByRole("navigation", { name: "Pages" }).getByRole("link", { name: "Topology" }).click();
    await expect(page.getByRole("button", { name: /^shop\/payments: failing.*errors begin here/ })).toBeVisible();
    expect(Date.now() - begun, "from apply to both pages").toBeLessThan(12_000);
  } finally {
    await open(page, "/policies/trafficpolicies/shop/payments-chaos");
    await page.getByRole("button", { name: "Delete", exact: true }).click();
    await page.getByRole("dialog").getByRole("button", { name: "Delete", exact: true }).click();
    await expect(page.getByRole("heading", { level: 1, name: "Policies" })).toBeVisible();
  }
});

test("the first load is under 300 KiB compressed", async ({ page }) => {
  const sizes: Promise<number>[] = [];
  page.on("response", (response) => {
    if (new URL(response.url()).pathname.startsWith("/dashboard")) sizes.push(response.body().then((body) => gzipSync(body).length, () => 0));
  });
  await open(page, "/");
  await expect(page.locator("main").getByText("shop/payments").first()).toBeVisible();
  const total = (await Promise.all(sizes)).reduce((sum, size) => sum + size, 0);
  expect(total).toBeGreaterThan(10_000);
  expect(total).toBeLessThan(300 * 1024);
});

test.describe("without a key", () => {
  test("the page asks to sign in, and says how", async ({ browser }) => {
    // A page of its own: the refusal is a console error of the browser's.
    const page = await browser.newPage();
    await page.goto(`${address.origin}/dashboard/identity`);
    await expect(page.getByRole("heading", { name: "Sign in to Weft" })).toBeVisible();
    await expect(page.getByText("weft dashboard", { exact: true })).toBeVisible();
    await page.getByRole("textbox", { name: "Token" }).fill("no such token");
    await page.getByRole("button", { name: "Sign in" }).click();
    await expect(page.getByRole("alert")).toContainText("refuses this token");
    await page.close();
  });
});

// Pictures of every page for `make screenshots`: wide and narrow, light and dark, and the shop with a fault in `payments`.
import { mkdirSync } from "node:fs";
import { resolve } from "node:path";
import { expect, open, PAGES, SIZES, test } from "./support";

const INTO = resolve("../../target/screenshots");
mkdirSync(INTO, { recursive: true });

const FAULT = { apiVersion: "weft.mesh/v1alpha1", kind: "TrafficPolicy", metadata: { name: "payments-chaos", namespace: "shop" }, spec: { targetRefs: [{ kind: "Service", name: "payments" }], faults: [{ abort: { status: 503, percent: 60 } }] } };
const POLICIES = "/apis/weft.mesh/v1alpha1/namespaces/shop/trafficpolicies";

for (const [size, viewport] of Object.entries(SIZES)) {
  for (const colorScheme of ["light", "dark"] as const) {
    test.describe(`${size} ${colorScheme}`, () => {
      test.use({ viewport, colorScheme });
      test("every page", async ({ page }) => {
        for (const { name, path, sees } of PAGES) {
          await open(page, path);
          await page.reload();
          await expect(page.locator("main").getByText(sees).first()).toBeVisible();
          if (name === "new") {
            await page.getByRole("button", { name: /^Fault/ }).click();
            await page.getByRole("button", { name: "Check", exact: true }).click();
            await expect(page.getByRole("region", { name: "What changes" })).toBeVisible();
            await page.mouse.wheel(0, -5000);
          }
          if (name === "explain") {
            await page.getByLabel(/^From/).fill("shop/orders");
            await page.getByLabel(/^To/).fill("shop/payments");
            await page.getByRole("button", { name: "Explain", exact: true }).click();
            await expect(page.getByRole("region", { name: "What becomes of it" })).toBeVisible();
          }
          if (name === "traffic") {
            await page.getByRole("button", { name: "Start", exact: true }).click();
            await page.waitForTimeout(4000);
            await page.locator(".call").first().click({ timeout: 1000 }).catch(() => undefined);
          }
          // Two moments of the stream.
          await page.waitForTimeout(2500);
          await page.screenshot({ path: `${INTO}/${name}-${size}-${colorScheme}.png` });
        }
      });
    });
  }
}

test.describe("a fault", () => {
  test.use({ viewport: SIZES.wide, colorScheme: "light" });
  test("in payments, on overview and topology", async ({ page }) => {
    await open(page, "/");
    const ask = (method: string, path: string, body?: object) => page.evaluate(async ([method, path, body]) => {
      const headers = { authorization: `Bearer ${sessionStorage.getItem("weft.token") ?? ""}`, "content-type": "application/json" };
      return (await fetch(path, { method, headers, ...(body ? { body } : {}) })).status;
    }, [method, path, body ? JSON.stringify(body) : ""] as const);
    await ask("POST", POLICIES, FAULT);
    await expect(page.getByRole("region", { name: "Problems" })).toContainText("shop/payments", { timeout: 20_000 });
    await page.waitForTimeout(9000);
    await page.screenshot({ path: `${INTO}/overview-fault.png` });
    await open(page, "/topology");
    await page.waitForTimeout(3000);
    await page.screenshot({ path: `${INTO}/topology-fault.png` });
    await ask("DELETE", `${POLICIES}/payments-chaos`);
  });
});

// A user who may only look: every page shows what it may, and what it may not do is not offered, or says why.
import { expect, open as go, PAGES, test, viewer, write } from "./support";
import type { Page } from "@playwright/test";

test.use({ viewport: { width: 1440, height: 900 } });
test.skip(!viewer, "the mesh that WEFT_DASHBOARD names has no such user");

const open = (page: Page, path: string): Promise<void> => go(page, path, viewer ?? undefined);

test("every page shows the shop to who may only look, and who that is", async ({ page }) => {
  for (const { name, path, sees } of PAGES.filter(({ name }) => name !== "identity")) {
    await open(page, path);
    await expect(page.locator("main").getByText(sees).first(), name).toBeVisible();
    await expect(page.getByRole("navigation", { name: "Pages" }), name).toContainText("vera");
  }
});

test("a tap is not offered without its right, and the page says which right that is", async ({ page }) => {
  await open(page, "/traffic");
  await expect(page.getByText("needs the right get workloads/tap")).toBeVisible();
  const start = page.getByRole("button", { name: "Start", exact: true });
  await expect(start).toBeDisabled();
  await expect(start).toHaveAttribute("title", "Your role does not let you tap in shop");
});

test("an object can be read and neither deleted nor changed, and the page says so", async ({ page }) => {
  await open(page, "/policies/trafficpolicies/shop/payments");
  await expect(page.getByText("Programmed: True")).toBeVisible();
  const remove = page.getByRole("button", { name: "Delete", exact: true });
  await expect(remove).toBeDisabled();
  await expect(remove).toHaveAttribute("title", "Your role does not let you delete it");
  await expect(page.getByText("You may look, not change: your role does not let you write trafficpolicies in shop.")).toBeVisible();
  await write(page, "apiVersion: weft.mesh/v1alpha1\nkind: TrafficPolicy\nmetadata: {name: payments, namespace: shop}\nspec:\n  targetRefs: [{kind: Service, name: payments}]\n");
  for (const name of ["Check", "Apply"]) {
    const button = page.getByRole("button", { name, exact: true });
    await expect(button).toBeDisabled();
    await expect(button).toHaveAttribute("title", /^Your role does not let you write it/);
  }
});

test("identities that the role does not show are said to be withheld, by name of the right", async ({ page }) => {
  await open(page, "/identity");
  await expect(page.locator("main")).toContainText(/You may not see .*cannot get resource "identities"/);
});

test("explain answers who may only look", async ({ page }) => {
  await open(page, "/policies/explain");
  await page.getByLabel(/^From/).fill("shop/orders");
  await page.getByLabel(/^To/).fill("shop/payments");
  await page.getByRole("button", { name: "Explain", exact: true }).click();
  await expect(page.getByRole("region", { name: "What becomes of it" })).toContainText("allowed");
});

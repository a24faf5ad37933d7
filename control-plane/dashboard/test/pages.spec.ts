// Every page, wide and narrow, light and dark: it shows what it should, fits, and is accessible.
import AxeBuilder from "@axe-core/playwright";
import { expect, open, PAGES, SIZES, test } from "./support";

for (const [size, viewport] of Object.entries(SIZES)) {
  for (const colorScheme of ["light", "dark"] as const) {
    test.describe(`${size}, ${colorScheme}`, () => {
      test.use({ viewport, colorScheme });
      for (const { name, path, sees } of PAGES) {
        test(`${name} shows the shop, fits and is accessible`, async ({ page }) => {
          await open(page, path);
          await expect(page.getByRole("heading", { level: 1 })).toBeVisible();
          await expect(page.locator("main").getByText(sees).first()).toBeVisible();
          await expect(page.getByText("The same on the command line")).toBeVisible();
          await expect(page.getByRole("button", { name: /^Updates: Live/ })).toBeVisible();
          expect(await page.evaluate(() => location.hash)).toBe("");
          const over = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
          expect(over, "nothing is wider than the screen").toBeLessThanOrEqual(0);
          const { violations } = await new AxeBuilder({ page }).withTags(["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"]).analyze();
          const grave = violations.filter(({ impact }) => impact === "serious" || impact === "critical");
          expect(grave.map(({ id, nodes }) => `${id}: ${nodes.map(({ html, failureSummary }) => `${html} ${failureSummary ?? ""}`).join("\n")}`)).toEqual([]);
        });
      }
    });
  }
}

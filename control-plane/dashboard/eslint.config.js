// Strict rules with types; what they forbid beyond style is HTML from data and promises that nobody waits for.
import tseslint from "typescript-eslint";

export default tseslint.config(
  { ignores: ["dist/", "node_modules/", "test-results/"] },
  { files: ["**/*.{ts,tsx}"], extends: [...tseslint.configs.strictTypeChecked], languageOptions: { parserOptions: { projectService: true } } },
  {
    files: ["**/*.{ts,tsx}"],
    rules: {
      "no-restricted-properties": ["error", ...["innerHTML", "outerHTML", "insertAdjacentHTML"].map((property) => ({ property, message: "data is text" }))],
      "no-restricted-syntax": ["error", { selector: "JSXAttribute[name.name='dangerouslySetInnerHTML']", message: "data is text" }],
      "@typescript-eslint/restrict-template-expressions": ["error", { allowNumber: true }],
      "@typescript-eslint/no-confusing-void-expression": ["error", { ignoreArrowShorthand: true }],
      "@typescript-eslint/no-misused-promises": ["error", { checksVoidReturn: { attributes: false } }],
    },
  },
);

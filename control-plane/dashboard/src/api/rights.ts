// Who the user is and may do, as the API itself says: controls that would be refused are shown with the reason instead.
import { signal } from "@preact/signals";
import { post, token } from "./client";

export interface Attributes {
  verb: string;
  resource: string;
  group?: string;
  subresource?: string;
  namespace?: string;
  name?: string;
}

/** The user's name; null until known. */
export const user = signal<string | null>(null);

const answers = signal<Map<string, boolean>>(new Map());
const asked = new Set<string>();

/** Whether something may be done; null while the API is being asked. */
export function may(attributes: Attributes): boolean | null {
  const key = JSON.stringify([attributes.verb, attributes.group ?? "weft.mesh", attributes.resource, attributes.subresource, attributes.namespace, attributes.name]);
  if (!asked.has(key)) {
    asked.add(key);
    void ask(key, attributes);
  }
  return answers.value.get(key) ?? null;
}

async function ask(key: string, attributes: Attributes): Promise<void> {
  const review = {
    apiVersion: "authorization.k8s.io/v1",
    kind: "SelfSubjectAccessReview",
    spec: { resourceAttributes: { group: "weft.mesh", ...attributes } },
  };
  try {
    const answer = await post<{ status: { allowed: boolean } }>("/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", review);
    answers.value = new Map(answers.value).set(key, answer.status.allowed);
  } catch {
    asked.delete(key);
  }
}

/** Asks who the user is. */
export async function whoAmI(): Promise<void> {
  const review = { apiVersion: "authentication.k8s.io/v1", kind: "SelfSubjectReview" };
  try {
    const answer = await post<{ status: { userInfo: { username: string } } }>("/apis/authentication.k8s.io/v1/selfsubjectreviews", review);
    user.value = answer.status.userInfo.username;
  } catch {
    user.value = null;
  }
}

/** Another user may do other things. */
export function attendRights(): void {
  token.subscribe(() => {
    asked.clear();
    answers.value = new Map();
    user.value = null;
    void whoAmI();
  });
}

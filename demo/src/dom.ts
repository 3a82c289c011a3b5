/** The page's elements, by the ids that index.html gives them. */

export const byId = <T extends HTMLElement>(id: string): T => document.getElementById(id) as T;
